# Biplanar X-ray to CT reconstruction on the CPU and, by `docker run --gpus all`, on NVIDIA's GPUs: PyTorch's wheel has
# CUDA's libraries. All wheels bring what they load beside what this image has. Research use only, not for diagnosis.
#
#     docker build -t biplanar .
#     docker run --rm biplanar --help
FROM python:3.11-slim-bookworm

ENV PIP_NO_CACHE_DIR=1 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

WORKDIR /app
COPY requirements.txt requirements-demo.txt launch.py ./
COPY launcher launcher
COPY monailabel_app monailabel_app
COPY dicom_node dicom_node
COPY bundle bundle
# The folders are those in which MONAI Label writes beside its app, whoever runs it.
RUN python launch.py install demo infer label node \
    && mkdir -m 1777 monailabel_app/bin monailabel_app/logs monailabel_app/model

# A user of `docker run --user` has no name and no home of its own; caches are made in the one, after the other.
ENV HOME=/tmp USER=biplanar
USER 1000:1000
ENTRYPOINT ["python", "launch.py"]
