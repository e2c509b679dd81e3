"""Files of rows of any size: opened, cut into blocks, mapped over processes in order, written whole or not.

sources.py    what an input is: plain, gzip, zstd, Parquet, a pipe
blocks.py     an input as blocks of whole lines
parallel.py   one function over all blocks, in order, in as many processes as asked for
ray_stage.py  the same by Ray Data, on the nodes of a cluster
held.py       bytes that stay where they were made until it is known where they go
outputs.py    several files that appear together or not at all
rows.py       a line as a row, or the reason why it is left out
tally.py      how many rows, how many left out and why, with examples
keys.py       what was seen before, in a few bytes a key
digits.py     numbers that a fast reader would change
jsontext.py   JSON, fast where orjson is installed
"""
