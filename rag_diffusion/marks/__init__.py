"""Pictures as files, with what tells where they come from: provenance, signed content credentials."""
