"""Another machine's shell, through OpenSSH: commands that run there, files that go there and come back."""
