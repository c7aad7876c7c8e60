"""One child, from birth to burial."""
