"""Checks: derivatives by differences, agreement of all routes, Monte Carlo confirmation."""
