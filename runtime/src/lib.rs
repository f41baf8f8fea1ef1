//! Devices, executor, parameters, checkpoints, the training loop and decoding.
