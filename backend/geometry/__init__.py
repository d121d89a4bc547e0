"""Geometry shared by the systems; numpy and torch, no graphics library."""
