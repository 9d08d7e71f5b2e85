"""What running engines have done and are doing, read by anyone: `ringblk stat` and `ringblk top`."""
