"""Speed, size and exactness of circuits, beside PySDD, KLay and d4."""
