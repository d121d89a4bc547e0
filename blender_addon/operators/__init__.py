"""Operators: each reads settings, calls one function and reports."""
