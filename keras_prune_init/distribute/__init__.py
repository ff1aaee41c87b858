"""Many devices and many hosts, through `tf.distribute`."""
