"""What is done about runs that have ended: do stages again, mend what dead processes left, remove what is old."""
