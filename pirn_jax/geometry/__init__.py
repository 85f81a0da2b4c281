"""From scans to surface normals."""
