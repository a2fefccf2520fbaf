"""Pure domain code: arrays in, arrays out. No TFX, no Beam, no TensorFlow, so that serving can use it too."""
