"""Chats as packed sequences of tokens: see `write.pack_chats`."""
