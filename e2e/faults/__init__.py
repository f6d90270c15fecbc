"""Faults below the collector's file system: an interposed library, a load, and lives that end in checks."""
