"""A script without a header, with a look-alike in its text.

# /// not a script
"""
# /// script
# dependencies = []
# ///
