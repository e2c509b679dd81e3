"""nemo-run: DGX Cloud, SkyPilot and KubeRay, and Lepton for those who want it that way."""
