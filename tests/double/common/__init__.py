"""What the doubles of all clouds share: an HTTP server with a control plane, and faults on demand."""
