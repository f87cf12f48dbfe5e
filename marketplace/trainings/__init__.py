"""Trainings of adapters: ordered, held, leased to a trainer that may die, charged for what was done."""
