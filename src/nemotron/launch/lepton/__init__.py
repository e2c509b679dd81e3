"""DGX Cloud Lepton: jobs and Ray clusters through its REST interface, by strict models of our own."""
