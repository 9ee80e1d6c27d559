"""The trunk of HY-WorldPlay WAN-5B as diffusers has it: Wan 2.2 with a timestep for each token, without a camera."""
