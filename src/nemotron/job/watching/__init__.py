"""What is looked at while a trainer runs, and how it is asked to stop."""
