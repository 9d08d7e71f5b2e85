"""A drive: how it is limited, what was set while it ran, what it has become."""
