//! What kernels and entries take on a machine: target descriptions, measurement, roofline, money.
