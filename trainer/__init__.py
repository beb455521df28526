"""Equipoise: a PPO trainer for hybrid (discrete and continuous) actions."""
