"""Everything that observation tools have in common: options, load, attach, read, print, detach."""
