"""Where clips come from, what is known of them before they are decoded, and their frames by time."""
