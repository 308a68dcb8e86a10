"""Records in, tables and pages out. Needs the store alone: no torch, and nothing of the engine that trains."""
