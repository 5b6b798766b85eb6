"""`python -m rag_diffusion`."""

from rag_diffusion.cli import main

main()
