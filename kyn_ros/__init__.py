"""ROS 2 nodes and tools of kyn: messages to arrays, ``kyn_models``, arrays to messages. No torch in here."""
