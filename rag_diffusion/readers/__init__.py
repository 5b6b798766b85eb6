"""What others have, in any of these forms: images checked, captions, and what was not taken, with its reason."""
