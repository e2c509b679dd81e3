"""Finds and reads steps and artifact types. Standard library only: every command starts here."""
