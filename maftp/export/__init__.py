"""The image path of a model as a program for other runtimes: torch.export and ONNX."""
