"""This machine: runs that go on when whoever started them has gone."""
