"""Our simulations and the emulator beside another particle-mesh code, JaxPM."""
