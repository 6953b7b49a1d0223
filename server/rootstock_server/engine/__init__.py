"""Time: what runs next. The engine is kind-blind, tenant-blind and text-blind."""
