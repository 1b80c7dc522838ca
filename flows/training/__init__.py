"""What training needs beside the loop: its configuration, pairs of image and truth, their split, and their survey."""
