"""Devices by the Container Device Interface: specifications read, applied, and written.

A specification (CDI's *spec*) is a JSON or YAML file by which a vendor says what a container
needs for a device. Source: cncf-tags/container-device-interface, SPEC.md 0.3.0 to 1.1.0.
"""
