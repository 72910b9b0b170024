"""Axis cameras: their VAPIX interface, a camera or a fleet at a time."""
