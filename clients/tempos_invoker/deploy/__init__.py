"""What an invoker is to do: the deployment, how it is written, checked and kept."""
