"""The nodes of one job: found, told what to start, and sent home; Ray and torchrun over them."""
