"""What a dead child leaves; each module has an arming side (in the child) and a reading side."""
