"""Hybrid-action PPO that keeps discrete decisions and continuous parameters in balance."""
