"""One page on a run: the gate's verdict first, then what it rests on."""
