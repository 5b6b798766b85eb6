"""`python -m rag_diffusion`."""

from rag_diffusion.terminal.app import main

main()
