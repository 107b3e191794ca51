"""Small models taught by large ones: data, students, training, and the loop that puts better ones in service."""
