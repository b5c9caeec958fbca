"""What more hardware buys: trials over several devices, and plans of several workers."""
