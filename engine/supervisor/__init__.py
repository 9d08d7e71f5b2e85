"""The processes of one drive: started, watched, told of changes, replaced."""
