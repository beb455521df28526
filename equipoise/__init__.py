"""Hybrid-action PPO that keeps discrete decisions and continuous parameters in balance."""

__version__ = "0.1.0"
