"""What `medseg export` puts beside a network, so that scans are segmented without medseg.

Needs numpy, nibabel and what runs the network: onnxruntime (.onnx), openvino (.xml) or torch (.pt).
"""
