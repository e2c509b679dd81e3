"""A lineage for people: a tree for the terminal (tree), Mermaid (mermaid), a page for a browser (page)."""
