"""Stages: each reads committed folders and commits one. One file per stage, thin."""
