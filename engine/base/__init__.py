"""What all rooms use: text, numbers, logs, standard streams, descriptors."""
