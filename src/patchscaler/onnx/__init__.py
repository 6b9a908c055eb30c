"""The model without torch: `export` writes its networks as ONNX files, `runner` enlarges pictures with them."""
